# syntax=docker/dockerfile:1
FROM python:3.11-slim AS build
WORKDIR /src
COPY . .
# The same script as `make install` and CI; without --dev it installs the wheel and the locked runtime packages only.
RUN .ci/install /opt/reya-indexer

FROM python:3.11-slim
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/reya-indexer reya
COPY --from=build /opt/reya-indexer /opt/reya-indexer
ENV PATH=/opt/reya-indexer/bin:$PATH REYA_INDEXER_DATA_DIR=/var/lib/reya-indexer REYA_INDEXER_LOG_FORMAT=json
USER reya
VOLUME /var/lib/reya-indexer
EXPOSE 9464
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s CMD \
  ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9464/live', timeout=4)"]
ENTRYPOINT ["reya-indexer"]
CMD ["run", "--chain", "reya", "--http-host", "0.0.0.0"]

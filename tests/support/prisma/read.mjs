// Asks the questions on stdin, a JSON list of [model, method, arguments], of DATABASE_URL through Prisma and its pg
// adapter; prints the answers as a JSON list. ["$queryRaw", sql] is a raw query. An error answers {"error": its code}.
//
// No number passes through a float: BigInts and Decimals are asked as {"bigint": "1"} and {"decimal": "1"}, and come
// as {"bigint": "1"} and {"decimal": "1"}, all digits written out; DateTimes come as {"date": "2024-01-01T00:00:00.000Z"}.
import { readFileSync } from "node:fs";
import { PrismaPg } from "@prisma/adapter-pg";
import { Prisma, PrismaClient } from "@prisma/client";

const ASKED = { bigint: BigInt, decimal: (digits) => new Prisma.Decimal(digits), date: (text) => new Date(text) };

function asked(_, value) {
  const [kind, ...others] = value !== null && typeof value === "object" ? Object.keys(value) : [];
  return kind in ASKED && others.length === 0 ? ASKED[kind](value[kind]) : value;
}

function told(value) {
  if (typeof value === "bigint") return { bigint: String(value) };
  if (Prisma.Decimal.isDecimal(value)) return { decimal: value.toFixed() };
  if (value instanceof Date) return { date: value.toISOString() };
  if (Array.isArray(value)) return value.map(told);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, told(inner)]));
}

const client = new PrismaClient({ adapter: new PrismaPg({ connectionString: process.env.DATABASE_URL }) });
const answers = [];
for (const [model, method, args] of JSON.parse(readFileSync(0, "utf8"), asked)) {
  try {
    const answer = model === "$queryRaw" ? client.$queryRawUnsafe(method) : client[model][method](args);
    answers.push(told(await answer));
  } catch (error) {
    if (!(error instanceof Prisma.PrismaClientKnownRequestError)) throw error;
    answers.push({ error: error.code });
  }
}
await client.$disconnect();
process.stdout.write(JSON.stringify(answers));

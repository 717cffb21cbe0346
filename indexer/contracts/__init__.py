"""What the deployed contracts' view functions say."""

-- For one transaction.
set local role {role};

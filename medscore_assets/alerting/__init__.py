"""Who is told what is wrong: routes, the ledger of alerts, and a watch that is no part of Dagster."""

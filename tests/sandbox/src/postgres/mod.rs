//! PostgreSQL: not a database for XA branches, but one that a coordinator may keep its own state in.

mod account;
mod installation;
mod launch;
mod server;
mod template;

pub use installation::{PostgresInstallation, fetch_postgres, locate_postgres, locate_postgres_cached};
pub use server::{Postgres, PostgresOptions};

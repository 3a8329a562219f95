//! Every rule of docs/xa.md, against a real MySQL and a real MariaDB.

mod support;
mod voting;

//! The coordinator: it persists global transactions and drives them across their participants.
//!
//! Data flows one way: [`transport`] → [`engine`] → `concord_protocol` → effects → [`store`] and outbound
//! calls. No module imports one above it; [`serve`] puts them together.

mod alert;
pub mod config;
mod ending;
pub mod engine;
pub mod inspection;
#[cfg(test)]
mod logged;
pub mod metrics;
mod reload;
pub mod resource;
pub mod scrape;
pub mod security;
pub mod serve;
pub mod store;
mod supervisor;
pub mod trace;
pub mod transport;

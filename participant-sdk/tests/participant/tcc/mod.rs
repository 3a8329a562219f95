//! Try, Confirm and Cancel.

mod barrier;
mod crowd;
mod faults;
mod handlers;
mod joining;
mod lost;
mod model;
#[path = "../../../xa/tests/rules/proxy.rs"]
mod proxy;
mod purging;
mod schema;
mod shop;
mod trips;

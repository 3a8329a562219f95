//! Try, Confirm and Cancel.

mod barrier;
mod crowd;
mod faults;
mod handlers;
mod joining;
mod model;
mod purging;
mod schema;
mod shop;

//! Try, Confirm and Cancel.

mod barrier;
mod crowd;
mod faults;
mod handlers;
mod model;
mod purging;
mod schema;
mod shop;

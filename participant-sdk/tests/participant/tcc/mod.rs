//! Try, Confirm and Cancel.

mod barrier;
mod handlers;
mod shop;

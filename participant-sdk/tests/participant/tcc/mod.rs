//! Try, Confirm and Cancel.

mod barrier;
mod crowd;
mod handlers;
mod shop;

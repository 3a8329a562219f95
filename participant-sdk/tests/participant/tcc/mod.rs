//! Try, Confirm and Cancel.

mod barrier;
mod shop;

//! What is shown: a table, a file for programs, plots, and how far it is.

mod json;
mod plot;
mod progress;
mod table;

pub(crate) use json::JsonFile;
pub(crate) use plot::{Curve, plot};
pub(crate) use progress::Progress;
pub(crate) use table::table;

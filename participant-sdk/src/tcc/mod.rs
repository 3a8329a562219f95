//! Try, Confirm and Cancel.

mod branch;

pub use branch::TccBranch;

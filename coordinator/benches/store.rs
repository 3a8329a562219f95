//! Measured appends; being written.
fn main() {}

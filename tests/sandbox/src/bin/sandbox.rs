//! `sandbox`: private MySQL and MariaDB servers from the command line.

fn main() {}

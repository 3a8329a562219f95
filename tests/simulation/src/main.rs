//! `simulate`: runs the real engine in a simulated world, once per seed.

fn main() {}

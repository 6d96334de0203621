//! The craft binary.
fn main() {}

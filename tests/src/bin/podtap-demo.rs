//! Replaced in the next step.
fn main() {}

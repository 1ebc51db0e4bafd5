//! Replaced in the next steps.
fn main() {}

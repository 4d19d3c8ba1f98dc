//! qga

fn main() {}

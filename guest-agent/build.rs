//! Links the agent small.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // A program that can be loaded anywhere has to know where its own addresses stand. Packed,
    // that takes a kilobyte instead of sixty; the C library that it is linked with reads it since
    // glibc 2.36.
    println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}

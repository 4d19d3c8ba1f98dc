//! Links the agent small.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=no-unwinding.ld");
    // A program that can be loaded anywhere has to know where its own addresses stand. Packed,
    // that takes a kilobyte instead of sixty; the C library that it is linked with reads it since
    // glibc 2.36.
    println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    // Only the profile that is shipped is built for size, and aborts on a panic.
    if std::env::var("OPT_LEVEL").is_ok_and(|level| level == "s" || level == "z") {
        let directory = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo:rustc-link-arg-bins=-Wl,--no-eh-frame-hdr,-T,{directory}/no-unwinding.ld");
    }
}

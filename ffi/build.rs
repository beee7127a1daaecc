//! What the linker is to write into the shared library.

fn main() {
    // The ABI's own number, which is not the version's. The library is named so in programs that are linked with it.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libklatch.so.0");
    // Threads and their destructors may outlive a dlclose.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo::rerun-if-changed=build.rs");
}

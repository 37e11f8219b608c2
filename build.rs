//! Build facts for `nty --version`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}

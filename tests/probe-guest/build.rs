//! Decides once how the crate is built, from the profile: `--profile probe` gives the freestanding guest image and sets
//! `cfg(freestanding)`; every other profile gives an ordinary program, so that `cargo test --workspace` needs no care.
//!
//! Cargo tells a build script no profile name and no panic strategy, but the profile is part of the output folder's path.
use std::env;
use std::path::Path;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=probe.ld");
    println!("cargo:rerun-if-changed=src/boot.s");
    println!("cargo:rustc-check-cfg=cfg(freestanding)");
    if !is_probe_profile() {
        return;
    }
    println!("cargo:rustc-cfg=freestanding");
    let folder = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = Path::new(&folder).join("probe.ld");
    for argument in ["-nostdlib", "-nostartfiles", "-static", "-no-pie"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    for argument in ["--build-id=none", "-z,max-page-size=4096", "--gc-sections"] {
        println!("cargo:rustc-link-arg-bins=-Wl,{argument}");
    }
    println!("cargo:rustc-link-arg-bins=-Wl,-T,{}", script.display());
}

/// `OUT_DIR` is `<target>/[<triple>/]<profile>/build/<crate>-<hash>/out`.
fn is_probe_profile() -> bool {
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    out.ancestors()
        .nth(3)
        .and_then(Path::file_name)
        .is_some_and(|name| name == "probe")
}

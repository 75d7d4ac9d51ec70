//! Generates the messages and the two services of `proto/nri.proto`.

use std::path::Path;
use std::{env, fs, io};

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

/// Generated files start with inner attributes, so they cannot be included themselves: this index
/// is included instead and makes each of them a module of its own.
const INDEX: &str = "pub mod nri;\npub mod nri_ttrpc;\n";

fn main() -> io::Result<()> {
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    let out = Path::new(&out);
    println!("cargo::rerun-if-changed=proto/nri.proto");
    Codegen::new()
        .out_dir(out)
        .input("proto/nri.proto")
        .include("proto")
        .rust_protobuf()
        // No reflection: nobody here asks for descriptors, and they cost memory in every process.
        .rust_protobuf_customize(ProtobufCustomize::default().lite_runtime(true).gen_mod_rs(false))
        .customize(Customize { async_all: true, ..Default::default() })
        .run()?;
    fs::write(out.join("index.rs"), INDEX)
}

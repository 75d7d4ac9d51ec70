//! The OCI hook: two processes of this program, one outside the container and one inside.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs::File;
use std::io;

use anyhow::{Context, Result};

use crate::jail;
use crate::ld_so_conf;
use crate::ldconfig::Ldconfig;
use crate::oci::State;
use crate::update::Update;

/// Runs on the host, as the container's runtime started us: finds the root, seals the program, starts the jail.
///
/// `state` is the file with the container's state; empty or `-` is standard input.
pub fn run(update: &Update, state: &OsStr) -> Result<()> {
    let state = match state.as_encoded_bytes() {
        b"" | b"-" => State::read(io::stdin(), "from standard input")?,
        _ => {
            let name = state.display().to_string();
            State::read(File::open(state).with_context(|| format!("open state {name}"))?, &name)?
        }
    };
    let rootfs = state.rootfs()?;
    let ldconfig = Ldconfig::seal(update.ldconfig_path())?;
    jail::run(&rootfs, update.timeout(), || refresh(update, ldconfig))
}

/// Runs as pid 1 of new namespaces, in the container's root as working directory, and ends by becoming ldconfig.
fn refresh(update: &Update, ldconfig: Ldconfig) -> Result<Infallible> {
    let jail = jail::enter().context("enter jail")?;
    let dirs = ld_so_conf::apply(&jail, update.dirs()).context("configure linker")?;
    ldconfig.exec(&jail, &dirs)
}

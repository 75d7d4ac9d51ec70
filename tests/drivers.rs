//! A driver in the container's own library directory, where there is, or was, one of another version.

use std::fs;

use anyhow::{Context, Result, bail, ensure};

use crate::bundle::{Bundle, Host, everywhere};
use crate::gpu;

const ENGINES: [&str; 3] = ["--engine=auto", "--engine=native", "--engine=ldconfig"];

/// A newer version than the node's.
fn newer() -> String {
    format!("{}/libcuda.so.999.1", gpu::directory())
}

/// A root with the library of a newer driver, which its cache knows.
fn with_newer<'a>(host: &'a Host, runtime: &str) -> Result<Bundle<'a>> {
    let mut bundle = Bundle::new(host)?;
    let library = format!("{}/lib64/{}", gpu::VOLUME, gpu::file("libcuda"));
    fs::copy(host.node.path(&library), bundle.root(&newer()))?;
    let ran = bundle.run(runtime, "ldconfig && ldconfig -p | grep libcuda.so.1")?;
    ensure!(ran.code == Some(0), "{ran:?}");
    Ok(bundle)
}

/// A root that is started again, or was committed as an image: where files were mounted there are empty ones.
#[test]
fn what_is_left_of_a_newer_driver_hides_nothing() -> Result<()> {
    everywhere(|host, runtime| {
        for engine in ENGINES {
            let bundle = with_newer(host, runtime)?;
            fs::write(bundle.root(&newer()), "")?;
            let mut bundle = bundle.hook(&["--discover", engine]);
            let ran = bundle.run(runtime, gpu::APP)?;
            ensure!(ran.stdout == gpu::GREETING, "{engine}: {ran:?}");
            let found = &bundle.report()?["found"];
            ensure!(found["libcuda"]["is"] == "mounted", "{engine}: {found}");
            ensure!(found["hidden"].is_null(), "{engine}: {found}");
        }
        Ok(())
    })
}

/// The linker takes the newer of two libraries of a directory, and no link in place of a file. That of the image is none that the
/// GPU's driver would work with.
#[test]
fn a_library_that_one_of_its_directory_hides_is_told() -> Result<()> {
    everywhere(|host, runtime| {
        for (engine, is_newer) in ENGINES[..2].iter().flat_map(|it| [(it, true), (it, false)]) {
            let bundle = with_newer(host, runtime)?;
            if !is_newer {
                let link = bundle.root(&format!("{}/libcuda.so.1", gpu::directory()));
                fs::remove_file(&link)?;
                fs::rename(bundle.root(&newer()), &link)?;
            }
            let mut bundle = bundle.hook(&["--discover", engine]);
            bundle.run(runtime, "true")?;
            let found = &bundle.report()?["found"];
            ensure!(found["libcuda"]["is"] == "of-image", "{engine}: {found}");
            let hidden = found["hidden"].as_array().context("nothing is hidden")?;
            let [hidden] = hidden.as_slice() else { bail!("{engine}: {found}") };
            let ends = |field: &str, name: &str| {
                hidden[field].as_str().is_some_and(|path| path.ends_with(&format!("/{name}")))
            };
            let is_told = ends("path", &gpu::file("libcuda")) && ends("by", "libcuda.so.1");
            ensure!(is_told, "{engine}: {found}");
        }
        Ok(())
    })
}

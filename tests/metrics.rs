//! The metrics, and the list of them that charts and people read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::endpoint::{Answer, converse};
use crate::served::Served;

const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/nri-ldcache/METRICS.md");

const HEAD: &str = "\
# Metrics of nri-ldcache

What the daemon serves at `/metrics` of `--http-address`. Every combination of label values that is listed here exists from
the start. This file is made from what the program serves: `UPDATE=1 cargo test --test all metrics::` writes it anew.

| metric | type | labels | |
|---|---|---|---|
";

/// A metric as it is served.
#[derive(Default)]
struct Metric {
    kind: String,
    help: String,
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// All that is served, in its order.
fn served(text: &str) -> Result<Vec<(String, Metric)>> {
    let mut metrics: Vec<(String, Metric)> = Vec::new();
    for line in text.lines() {
        if let Some((name, help)) =
            line.strip_prefix("# HELP ").and_then(|line| line.split_once(' '))
        {
            let metric = Metric { help: help.to_owned(), ..Metric::default() };
            metrics.push((name.to_owned(), metric));
            continue;
        }
        let (name, metric) = metrics.last_mut().context("a sample without a description")?;
        if let Some(kind) = line.strip_prefix(&format!("# TYPE {name} ")) {
            kind.clone_into(&mut metric.kind);
        } else {
            let (sample, _) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
            let labels = sample.strip_prefix(&**name).with_context(|| line.to_owned())?;
            note(&mut metric.labels, labels);
        }
    }
    Ok(metrics)
}

/// The labels of a sample, written `{name="value",…}` behind what a histogram adds to its name.
fn note(known: &mut BTreeMap<String, BTreeSet<String>>, labels: &str) {
    let labels = labels.trim_start_matches(|c| c != '{').trim_matches(['{', '}']);
    for (name, value) in labels.split(',').filter_map(|label| label.split_once('=')) {
        let (values, value) = (known.entry(name.to_owned()).or_default(), value.trim_matches('"'));
        if name != "le" && name != "version" {
            values.insert(value.to_owned());
        }
    }
    known.remove("le");
}

fn reference(metrics: &[(String, Metric)]) -> Result<String> {
    let mut text = HEAD.to_owned();
    for (name, metric) in metrics {
        let labels = metric.labels.iter().map(|(label, values)| {
            let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
            if values.is_empty() {
                format!("`{label}`")
            } else {
                format!("`{label}`: {}", values.join(", "))
            }
        });
        let labels: Vec<_> = labels.collect();
        let help = metric.help.trim_end_matches('.');
        writeln!(text, "| `{name}` | {} | {} | {help} |", metric.kind, labels.join("; "))?;
    }
    Ok(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_lists_what_is_served() -> Result<()> {
    let text = Served::start(&[])?.get("/metrics")?.body;
    let expected = reference(&served(&text)?)?;
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(Path::new(REFERENCE).parent().context("it has a directory")?)?;
        fs::write(REFERENCE, &expected)?;
    }
    let found = fs::read_to_string(REFERENCE).with_context(|| format!("read {REFERENCE}"))?;
    ensure!(found == expected, "{REFERENCE} is not what is served; UPDATE=1 writes it anew");
    Ok(())
}

/// What linters of metrics ask for, in both formats.
#[tokio::test(flavor = "multi_thread")]
async fn names_and_formats_are_prometheus_own() -> Result<()> {
    let daemon = Served::start(&[])?;
    for (name, metric) in served(&daemon.get("/metrics")?.body)? {
        ensure!(name.starts_with("nri_ldcache_") && !metric.help.is_empty(), "{name}");
        ensure!(name.ends_with("_total") == (metric.kind == "counter"), "{name} {}", metric.kind);
        ensure!(metric.kind != "histogram" || name.ends_with("_seconds"), "{name} has no unit");
        let word = |c: char| c.is_ascii_lowercase() || c == '-';
        let words = metric.labels.values().flatten().all(|value| value.chars().all(word));
        ensure!(words, "{name} has labels that are no words: {:?}", metric.labels);
    }
    let accept = "Accept: application/openmetrics-text; version=1.0.0";
    let open =
        converse(daemon.address, &format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{accept}\r\n\r\n"))?;
    let open = Answer::parse(&open)?.body;
    ensure!(open.contains("# TYPE nri_ldcache_requests counter\n") && open.ends_with("# EOF\n"));
    ensure!(open.contains("# UNIT nri_ldcache_request_duration_seconds seconds\n"));
    Ok(())
}

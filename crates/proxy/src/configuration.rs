//! Configurations, read and checked.

use std::path::Path;

use anyhow::Context;

use mrg_policy::{Checked, Config};

/// Reads a configuration, JSON or YAML.
///
/// # Errors
/// If it is no UTF-8 text, neither JSON nor YAML of a configuration, or its values contradict each
/// other; the problems are named with their fields.
pub fn parse(bytes: &[u8]) -> anyhow::Result<Checked> {
    let text = std::str::from_utf8(bytes).context("the configuration is no UTF-8 text")?;
    // YAML reads JSON, too.
    let config: Config =
        serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(Checked::try_from(config)?)
}

/// Checks a file as `mrg-proxy check` does, and returns the name of the workload.
///
/// # Errors
/// If the file cannot be read or is refused by [`parse`].
pub fn validate(file: &Path) -> anyhow::Result<String> {
    let bytes =
        std::fs::read(file).with_context(|| format!("unable to read {}", file.display()))?;
    let checked = parse(&bytes).with_context(|| file.display().to_string())?;
    Ok(checked.workload.clone())
}

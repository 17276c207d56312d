//! `sidecast check`: the effective configuration, or everything that is wrong with it.

use super::args::Global;
use super::{Failure, run};
use crate::config::{self, Loaded};
use std::io::{self, Write};

/// Prints the configuration as YAML, each value with where it came from.
///
/// # Errors
/// Every problem, one a line, with exit code 2.
pub fn check(global: &Global) -> Result<u8, Failure> {
    let loaded = run::load(global)?;
    // Whoever closed the output has seen enough; the verdict is the exit code.
    let _ = report(&loaded, &mut io::stdout().lock(), &mut io::stderr().lock());
    Ok(0)
}

/// The warnings go another way, so that what is printed can be read again.
fn report(loaded: &Loaded, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
    out.write_all(config::render(loaded).as_bytes())?;
    out.flush()?;
    for warning in &loaded.config.warnings {
        writeln!(err, "warning: {warning}")?;
    }
    err.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn warnings_do_not_mix_with_what_is_printed() {
        let env = BTreeMap::from([("SIDECAST_BGP_LOCAL_AS".to_owned(), "65001".to_owned())]);
        let loaded = config::load(None, &env, &mut |_| Ok(String::new())).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        report(&loaded, &mut out, &mut err).unwrap();
        let (out, err) = (
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        );
        assert!(
            out.contains("  local_as: 65001  # environment SIDECAST_BGP_LOCAL_AS\n"),
            "{out}"
        );
        assert!(!out.contains("warning"), "{out}");
        assert!(
            err.starts_with("warning: ") && err.contains("any AS is accepted"),
            "{err}"
        );
    }
}

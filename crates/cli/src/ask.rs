//! Asking before something is done that others will notice.

use std::io::{BufRead, IsTerminal, Write};

use super::Error;

/// Asks, unless `yes` was given beforehand.
///
/// # Errors
/// If the answer is no, or nobody is there to be asked.
pub(crate) fn confirm(what: &str, yes: bool) -> Result<(), Error> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Error::Refused(format!(
            "{what}? Nobody is here to be asked; give --yes to do it"
        )));
    }
    eprint!("{what}? [y/N] ");
    // Without the question the answer would be a guess.
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Error::Refused("nothing was done".to_owned()))
    }
}

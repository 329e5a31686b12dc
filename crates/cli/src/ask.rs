//! Asking before something is done that others will notice.

use std::io::{BufRead, IsTerminal, Write};

use super::Error;

/// Asks for a name, as the confirmation of what cannot be undone; `yes` is the answer that was given
/// beforehand.
///
/// # Errors
/// If the answer is another name, or there is no terminal to ask at.
pub(crate) fn confirm_name(what: &str, name: &str, yes: Option<&str>) -> Result<(), Error> {
    let answer = match yes {
        Some(answer) => answer.to_owned(),
        None if !std::io::stdin().is_terminal() => {
            return Err(Error::Refused(format!(
                "{what}; there is no terminal to ask at: give --yes {name} to do it"
            )));
        }
        None => {
            eprint!("{what}.\nType the name of the cluster to do it: ");
            let _ = std::io::stderr().flush();
            let mut answer = String::new();
            let read = std::io::stdin().lock().read_line(&mut answer);
            read.map_or_else(|_| String::new(), |_| answer)
        }
    };
    if answer.trim() == name {
        Ok(())
    } else {
        Err(Error::Refused(format!(
            "`{}` is not `{name}`; nothing was done",
            answer.trim()
        )))
    }
}

/// Asks, unless `yes` was given beforehand.
///
/// # Errors
/// If the answer is no, or there is no terminal to ask at.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_confirms() {
        assert!(confirm_name("X", "pg", Some("pg")).is_ok());
        let refused = confirm_name("X", "pg", Some("pg2")).unwrap_err();
        assert_eq!(refused.to_string(), "`pg2` is not `pg`; nothing was done");
    }
}

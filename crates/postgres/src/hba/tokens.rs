//! A line's fields and tokens, as PostgreSQL splits them (`next_token` in `hba.c`).

use std::iter::Peekable;
use std::str::Chars;

/// The end of a token: whether a comma follows, after which the field goes on.
type Listed = bool;

/// The tokens of each field of a line. Fields are separated by blanks, their tokens by commas.
///
/// # Errors
/// If a double quote is not closed: PostgreSQL ends the token at the end of the line.
pub(super) fn fields(line: &str) -> Result<Vec<Vec<String>>, String> {
    let mut rest = line.chars().peekable();
    let (mut fields, mut listed) = (Vec::<Vec<String>>::new(), false);
    while let Some((token, more)) = next_token(&mut rest)? {
        match fields.last_mut() {
            Some(field) if listed => field.push(token),
            _ => fields.push(vec![token]),
        }
        listed = more;
    }
    Ok(fields)
}

fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r')
}

fn next_token(rest: &mut Peekable<Chars<'_>>) -> Result<Option<(String, Listed)>, String> {
    while rest.next_if(|c| is_blank(*c) || *c == ',').is_some() {}
    let (mut token, mut listed) = (String::new(), false);
    let (mut in_quotes, mut was_quote, mut saw_quote) = (false, false, false);
    while let Some(character) = rest.next_if(|c| in_quotes || !is_blank(*c)) {
        match character {
            '#' if !in_quotes => {
                rest.by_ref().for_each(drop);
                break;
            }
            ',' if !in_quotes => {
                listed = true;
                break;
            }
            '"' => {
                // The second of two within quotes stands for itself.
                if was_quote {
                    token.push('"');
                }
                was_quote = in_quotes && !was_quote;
                in_quotes = !in_quotes;
                saw_quote = true;
            }
            other => {
                was_quote = false;
                token.push(other);
            }
        }
    }
    if in_quotes {
        return Err("a double quote is not closed".into());
    }
    Ok((saw_quote || !token.is_empty()).then_some((token, listed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_split_as_postgresql_splits_it() {
        for (line, expected) in [
            ("", &[][..]),
            (" , # only a comment", &[]),
            (
                "local all\tall  peer",
                &[&["local"][..], &["all"], &["all"], &["peer"]],
            ),
            ("a,b, c d ,e", &[&["a", "b", "c"], &["d"], &["e"]]),
            ("\"a b\",\"c#d\"#e", &[&["a b", "c#d"]]),
            ("\"a\"\"b\" x\"y z\" \"\"", &[&["a\"b"], &["xy z"], &[""]]),
            ("a,#b", &[&["a"]]),
        ] {
            assert_eq!(fields(line).unwrap(), expected, "{line}");
        }
        assert!(fields("local \"all").is_err());
    }
}

//! What becomes of a request from the queue by the status that it was answered with.

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It was processed.
    Done,
    /// It was not processed, or its provider recognises it: it is sent again later.
    Later,
    /// The provider refused the credential: it is sent again much later, when another may be there.
    AfterCredential,
    /// It may have been processed; people find out.
    Ambiguous,
    /// It was refused as it is; people decide, by the words of the answer.
    Refused,
}

/// What becomes of a request that was answered with this status. `repeatable`: its provider recognises
/// a second attempt by its key.
pub fn settlement(status: u16, repeatable: bool) -> Settlement {
    match status {
        200..=299 => Settlement::Done,
        // RFC 9110, 15.5.9; RFC 8470, 5.2; RFC 6585, 4: none of them was processed. A 503 may be a
        // gateway's that heard nothing of a request which got there.
        408 | 425 | 429 => Settlement::Later,
        401 | 403 => Settlement::AfterCredential,
        500.. if repeatable => Settlement::Later,
        500.. => Settlement::Ambiguous,
        _ => Settlement::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_done_that_was_not_processed() {
        for (status, unknown, recognised) in [
            (200, Settlement::Done, Settlement::Done),
            (202, Settlement::Done, Settlement::Done),
            (301, Settlement::Refused, Settlement::Refused),
            (400, Settlement::Refused, Settlement::Refused),
            (
                401,
                Settlement::AfterCredential,
                Settlement::AfterCredential,
            ),
            (
                403,
                Settlement::AfterCredential,
                Settlement::AfterCredential,
            ),
            (408, Settlement::Later, Settlement::Later),
            (409, Settlement::Refused, Settlement::Refused),
            (422, Settlement::Refused, Settlement::Refused),
            (425, Settlement::Later, Settlement::Later),
            (429, Settlement::Later, Settlement::Later),
            (500, Settlement::Ambiguous, Settlement::Later),
            (503, Settlement::Ambiguous, Settlement::Later),
            (504, Settlement::Ambiguous, Settlement::Later),
        ] {
            let seen = (settlement(status, false), settlement(status, true));
            assert_eq!(seen, (unknown, recognised), "{status}");
        }
    }
}

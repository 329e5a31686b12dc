#![no_main]
#[path = "../checks.rs"]
#[allow(dead_code, reason = "every target has one of them")]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::rest_switchover(bytes));

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidecast_fuzz::tags(data));

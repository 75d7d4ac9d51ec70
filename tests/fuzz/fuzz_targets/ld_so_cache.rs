#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::ld_so_cache::check(data));

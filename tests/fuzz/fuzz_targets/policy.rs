#![no_main]

use properties::policy::Case;

libfuzzer_sys::fuzz_target!(|case: Case| case.check());

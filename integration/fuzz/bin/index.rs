#![cfg_attr(fuzzing, no_main)]

laneway_fuzz::fuzzer!(index);

//! Memory layout shared by the kernel program and its loader; built together, never versioned.
#![no_std]

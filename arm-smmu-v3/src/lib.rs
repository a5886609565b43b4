//! In work.
#![no_std]

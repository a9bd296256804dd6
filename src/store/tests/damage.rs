//! Damage: never a panic, never silently empty, and nothing overwritten.

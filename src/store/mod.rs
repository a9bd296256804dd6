//! Where items, answers, accounts and texts are kept.

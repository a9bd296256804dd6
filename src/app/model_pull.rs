//! `qaflow model pull`: fetches the embedded model's weights and checks their hash.

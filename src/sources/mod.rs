//! Where documents come from: folders, files, manifests.

"""Keys and signatures: private key files, which one-time keys were used, who signs."""

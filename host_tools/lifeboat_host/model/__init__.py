"""What lifeboat's bytes mean, whatever medium they are on."""

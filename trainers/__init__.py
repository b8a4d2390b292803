"""The trainers that nnU-Net finds by name; pip copies this folder into nnU-Net's own."""

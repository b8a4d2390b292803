"""NSD, HD95 and MASD."""

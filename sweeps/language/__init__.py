"""The sweep file: what it may say, and the cells it stands for."""

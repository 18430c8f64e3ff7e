"""What any run needs: its folder, configs, files, lines of JSON, memory, Ray."""

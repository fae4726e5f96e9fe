"""Mixed clients against one server for a long time: is every answer exact, and what grows or is lost?"""
